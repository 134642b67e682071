"""The documentation's pages, all generated: `make docs` builds them with MkDocs into `build/docs`.

| file | pages |
| --- | --- |
| `hooks` | what MkDocs calls: adds the pages below, renders mathematics |
| `article` | the article to start with, from `docs/few_steps.md` |
| `claims` | the ledger with its filters, a page for each section and each claim, from one run of every check |
| `ledger` | that run, and what belongs to a row |
| `graph`, `source`, `records` | what rests on what; the files that claims name; the recorded runs |
| `explorables`, `charts` | closed forms that move, and the library that draws them |
| `studies` | a page for each study: its answer to the README's command, its flags, its claims |
| `reference` | a page for each module, from its docstrings |
| `references` | names in docstrings become links |
| `notebooks` | the notebooks, with their outputs |
| `prose` | README, CONTRIBUTING and CHANGELOG, their links led to the site's pages |
| `finish`, `mathematics` | what every page gets as HTML; TeX to MathML, which browsers draw without a script |
"""
