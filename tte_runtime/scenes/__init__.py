"""The little world that the bundled model lives in: real pictures on a labelled 4x4 board.

Rooms: `pictures` (names and images), `world` (cells, moves, scenes), `draw` (scene -> pixels), `questions`
(scene -> question, the teacher's trace, answer), `split` (what is kept out of training). Nothing here knows
of tensors, tokens or models.
"""
