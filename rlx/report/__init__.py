"""From run directories to tables, figures and one self-contained page: `page.write_report` is the way in.

Reads files only: no torch, no Hydra, no Lightning, so a report can be made on any machine that holds the runs.
`places` finds runs, `read` and `history` read them, `labels` calls arms by what differs between them.
`models` turns evaluations into numbers with intervals; `tables`, `figures` and `training` show them.
"""
