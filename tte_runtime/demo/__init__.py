"""`tte demo`: a gallery, a handful of questions with and without thinking, a measured comparison, and one
page.

Rooms: `gallery` (held-out documents and questions), `asking` (embed, rank, judge), `steps` (a trace as moves
on the board), `console` (what is printed), `page` (the HTML file), `command` (the options and the order of
events). The measurement itself is `tte_runtime.evaluation.compare`. Importing this package imports nothing
else.
"""
