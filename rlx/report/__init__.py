"""From run directories to tables, figures and one self-contained page: `page.write_report` is the way in.

Reads files only: no torch, no Hydra, no Lightning, so a report can be made on any machine that holds the runs.
`read` finds runs, `models` turns evaluations into numbers with intervals, `tables` and `figures` show them.
"""
