"""The published benchmarks as they are downloaded, each a value; `prepared` brings them into one form."""
