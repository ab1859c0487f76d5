"""The page in the browser: `answers.py` computes what it shows, `html.py` writes it, `page.py` joins both by Gradio."""
