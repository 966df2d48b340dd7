"""What is wrong with an upload: codes, the report, the page, automatic fixes."""
