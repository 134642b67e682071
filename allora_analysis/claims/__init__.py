"""The paper's statements, one file per section, and the ledger that gives each a computed verdict."""
