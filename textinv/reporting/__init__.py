"""The report: a run on one page to send to a friend, and what a run adds to its folder for it at its end.
Nothing of the method imports this.
"""
