"""Experiments that compute published figures again, and the page that puts our numbers beside theirs."""
