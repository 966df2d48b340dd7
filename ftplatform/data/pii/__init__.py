"""Personal data and secrets: what is looked for, how it is found, what stands in its place."""
