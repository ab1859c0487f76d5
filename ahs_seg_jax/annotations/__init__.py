"""Labels as the files of other people's tools: one file a format; `cli/result_formats.py` is the table of all."""
