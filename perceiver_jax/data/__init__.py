"""One file per data source; knows no model and no device."""
