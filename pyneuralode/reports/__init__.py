"""Experiments that compute published figures and tables again, and the page that puts our numbers beside theirs."""
