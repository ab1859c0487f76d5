"""Files and buckets: paths, whole writes, writes in the background."""
