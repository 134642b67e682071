"""The ledger's rows about the reported numbers, by kind; `allora_analysis.claims.section_4_tables` collects them.

`numbers` the tables themselves, `figures` Figures 3 and 4 against them, `dropout` Table 2's sentences, `averages`
stated averages, `setup` what was run, `orders` what order alone decides, `everywhere` the rule for a sentence that
claims every case, `gaps` what needs a test.
"""
