"""The paper's statements, one file per section, and the ledger that gives each a computed verdict.

To add a claim: write its check in its section's file and list it in that file's `claims()`. A new file joins
`SECTIONS`.
"""

# In the paper's order. Names, so that importing the package costs nothing.
SECTIONS = (
    "section_3_1_tikhonov",
    "section_3_1_placement",
    "section_3_1_deviation",
    "section_3_1_sgd",
    "section_3_1_dropout_rates",
    "section_3_1_figure_1",
    "section_3_2_zero_initialisation",
    "section_3_2_networks",
    "section_3_2_pretrained",
    "section_3_3_ripple",
    "section_4_limitations",
    "section_4_allora",
    "section_4_framework",
    "section_4_definition",
    "section_4_escape",
    "section_4_figure_2",
    "section_4_row_norms",
    "section_4_descent",
    "section_4_gradient",
    "section_4_knobs",
    "section_4_listing",
    "section_4_output_dependent",
    "section_4_variants",
    "section_4_commonsense",
    "section_4_fine_tuning",
    "section_4_learning_rates",
    "section_4_tables",
)
