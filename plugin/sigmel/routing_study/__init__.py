"""Where routers send frames: measures, tables, plots and a page."""
