"""The type checker that the import hook applies to every function of the package."""

from beartype import BeartypeConf, beartype

# An int is a float here, as PEP 484 has it.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
