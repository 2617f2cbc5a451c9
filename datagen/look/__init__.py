"""Looking at the data: statistics, quality measures, the page to browse it, the data set card."""
