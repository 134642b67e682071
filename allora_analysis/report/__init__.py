"""The ledger as one self-contained HTML page: `python -m allora_analysis --report ledger.html`.

| file | object |
| --- | --- |
| `symbols` | which letters of a text are symbols, which are words |
| `reader` | a formula in the house's notation, read into a tree; `tree`: the tree and its MathML |
| `notation` | text with formulas in it, as HTML |
| `evidence` | a claim's evidence as facts and a table |
| `pictures` | which drawn picture belongs to a claim |
| `page` | the document; `templates/` has its HTML, style and script |
"""

from allora_analysis.report.page import page

__all__ = ["page"]
