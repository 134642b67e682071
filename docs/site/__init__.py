"""The documentation's pages, all generated: `make docs` builds them with MkDocs into `build/docs`.

| file | pages |
| --- | --- |
| `hooks` | what MkDocs calls: adds the pages below, renders mathematics |
| `ledger` | the ledger, and the map paper → module → test → figure → verdict, from one run of every check |
| `studies` | a page for each study: its answer to the README's command, its flags, its claims |
| `reference` | a page for each module, from its docstrings |
| `references` | names in docstrings become links |
| `notebooks` | the notebooks, with their outputs |
| `prose` | README, CONTRIBUTING and CHANGELOG, their links led to the site's pages |
| `mathematics` | TeX to MathML, which browsers draw without a script |
"""
