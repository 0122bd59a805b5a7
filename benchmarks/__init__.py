"""Speed, measured side by side in one run: `python -m benchmarks` from the folder of the checkout.

A part is a function that measures something and returns a table of one form (`facekit.experiments.speed.figures`);
`__main__` calls, prints and records them, `page` makes the README's table of what was recorded.
"""
