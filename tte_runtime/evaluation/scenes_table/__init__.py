"""The table of the held-out scenes: thinking against embedding at once, with controls, intervals and costs.

    systems    which rows there are, and how a row's system is loaded
    controls   what is done to a trace to find out what it is worth
    asking     a system embeds the pool and the questions; what comes of it is kept
    cost       what a question costs: milliseconds, tokens, operations, parameters
    bootstrap  intervals
    run        all of it, seed by seed · summary: over seeds · report: as text · picture data: as rows

The weights come from `evaluation.arms`. Nothing here trains, and no figure here is written down beforehand.
"""
