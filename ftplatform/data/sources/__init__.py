"""Where a customer's files come from on their own machine: paths, web addresses, Hugging Face folders."""
