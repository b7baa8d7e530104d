"""Reading a figure back."""
import re


def read_chart(figure: str) -> tuple[str, dict[str, tuple[float, float]]]:
    """What is shown over what, and by label where each point lies: from 0, the leftmost or lowest, to 1."""
    places = [(float(x), -float(y)) for x, y in re.findall(r'<circle [^>]*cx="([^"]+)" cy="([^"]+)"', figure)]
    across, up = ([round((value - min(values)) / (max(values) - min(values)), 2) for value in values]
                  for values in zip(*places, strict=True))
    names = re.findall(r'<text class="label"[^>]*>([^<]+)<', figure)
    return (re.search(r'aria-label="([^"]+)"', figure)[1],
            {name: (x, y) for name, x, y in zip(names, across, up, strict=True)})
