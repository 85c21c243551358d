"""The commands of `paidup`: a module for each group; `paidup.cli` lists them."""
