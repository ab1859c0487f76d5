"""Published data sets in prepared form: from the downloads to shards, and back to images."""
