"""Where the registry's rows are kept: one interface, several backends."""
