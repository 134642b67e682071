"""The paper's statements, a file a heading in the paper's order, and the ledger that gives each a computed verdict.

To add a claim: write the sentence and its check, `@claim(...)` above a function, into the file of its heading.
"""

# In the paper's order. Names, so that importing the package costs nothing.
SECTIONS = (
    "s3_1_tikhonov",
    "s3_1_placement",
    "s3_1_deviation",
    "s3_1_in_training",
    "s3_1_convergence",
    "s3_1_few_steps",
    "s3_1_in_factors",
    "s3_1_figure_1",
    "s3_1_laboratory",
    "s3_2_in_v",
    "s3_2_in_a_and_b",
    "s3_2_first_steps",
    "s3_2_real_networks",
    "s3_3_scaling_factor",
    "s3_3_interactions",
    "s3_3_worst_case",
    "s3_3_tightness",
    "s3_3_at_random",
    "s4_1_three_limitations",
    "s4_1_dropout_as_scaling",
    "s4_1_framework",
    "s4_2_definition",
    "s4_2_leaving_zero",
    "s4_2_first_steps",
    "s4_2_row_norms",
    "s4_2_descent",
    "s4_2_convergence",
    "s4_2_hyper_parameters",
    "s4_3_family",
    "s4_3_asf_lora",
    "s4_4_our_runs",
    "app_f_listing",
    "tables.table_1",
    "tables.tables_2_to_4",
    "tables.procedures",
    "tables.prose_of_results",
)
