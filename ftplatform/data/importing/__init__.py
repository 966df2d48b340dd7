"""From the bytes of an upload to canonical rows, with a finding for everything that is wrong."""
