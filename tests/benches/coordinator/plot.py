"""Draws how costs grow, from measurements as `docs/benchmarks/coordinator.json` has them.

    python tests/benches/coordinator/plot.py docs/benchmarks/coordinator.json docs/benchmarks/coordinator.svg

Both axes of each panel are logarithmic: a straight line that rises by one decade a decade is linear growth.
"""

import json
import math
import sys

WIDTH, HEIGHT, MARGIN = 320, 230, 48
COLORS = {"before": "#c0504d", "after": "#1f6fb2"}


def decades(values):
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def name(power):
    return {-2: "0.01", -1: "0.1"}.get(power, f"{10**power:,}" if power >= 0 else f"1e{power}")


def panel(at, title, of, unit, lines):
    left, top = at
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    (x0, x1), (y0, y1) = decades(xs), decades(ys)
    inner_width, inner_height = WIDTH - 2 * MARGIN, HEIGHT - 2 * MARGIN

    def place(x, y):
        across = (math.log10(x) - x0) / (x1 - x0)
        up = (math.log10(y) - y0) / (y1 - y0)
        return left + MARGIN + across * inner_width, top + HEIGHT - MARGIN - up * inner_height

    drawn = [f'<text x="{left + WIDTH / 2}" y="{top + 22}" text-anchor="middle" font-weight="bold">{title}</text>']
    for power in range(x0, x1 + 1):
        x, y = place(10**power, 10**y0)
        drawn.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y - inner_height:.1f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{name(power)}</text>')
    for power in range(y0, y1 + 1):
        x, y = place(10**x0, 10**power)
        drawn.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + inner_width:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x - 4:.1f}" y="{y + 4:.1f}" text-anchor="end">{name(power)}</text>')
    drawn.append(f'<text x="{left + WIDTH / 2}" y="{top + HEIGHT - 14}" text-anchor="middle">{of}</text>')
    drawn.append(f'<text x="{left + MARGIN}" y="{top + MARGIN - 8}">{unit}</text>')
    for which, points in lines.items():
        color = COLORS[which]
        places = [place(x, y) for x, y in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in places]
    return drawn


def main():
    source, target = sys.argv[1:]
    with open(source) as file:
        panels = json.load(file)["panels"]
    rows = math.ceil(len(panels) / 2)
    drawn = []
    for number, one in enumerate(panels):
        at = (number % 2 * WIDTH, number // 2 * HEIGHT)
        drawn += panel(at, one["title"], one["of"], one["unit"], one["lines"])
    height = rows * HEIGHT + 24
    for number, (which, color) in enumerate(COLORS.items()):
        drawn.append(f'<text x="{MARGIN + number * 90}" y="{height - 8}" fill="{color}">{which}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{height}" font-family="sans-serif" font-size="10">'
    with open(target, "w") as file:
        file.write("\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *drawn, "</svg>\n"]))


if __name__ == "__main__":
    main()
