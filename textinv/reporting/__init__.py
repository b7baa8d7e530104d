"""The report: a run on one page to send to a friend, and the files that a run adds for it at the end.
The method itself imports nothing from here.
"""
