"""One view of a row of the ledger, and its writers.

| file | object |
| --- | --- |
| `view` | a row as a reader sees it: the answer first; its JSON; what is counted |
| `code` | which functions a claim's check calls |
| `terminal` | the table, one row in full, the list |
| `markdown` | `docs/ledger.md` and the README's block |
| `html` | the ledger as one page that loads nothing; its parts in `templates/` |
"""
