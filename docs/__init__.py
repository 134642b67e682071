"""Pictures and tables that commands write, and in `site` what builds the documentation's pages."""
