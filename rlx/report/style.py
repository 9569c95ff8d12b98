"""The page's style sheet: system fonts, one column, light and dark."""

from rlx.report.theme import DARK_PALETTE, PAGE, PALETTE


def _variables(palette: tuple[str, ...]) -> str:
    return " ".join(f"--c{index}: {color};" for index, color in enumerate(palette))


CSS = f"""
:root {{
  --ink: #1d2329; --muted: #626c77; --grid: #e4e7eb; --page: {PAGE}; --panel: #f5f6f7;
  --good: #00704f; --bad: #b3400a; --open: #626c77;
  --good-bg: #e2f3ec; --bad-bg: #fbe9df; --open-bg: #eceef1;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace;
  {_variables(PALETTE)}
  color-scheme: light dark;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --ink: #e6e9ec; --muted: #98a2ad; --grid: #2c333a; --page: #14181c; --panel: #1c2126;
    --good: #6fd3b0; --bad: #f2a074; --open: #a9b2bc;
    --good-bg: #163229; --bad-bg: #3a2419; --open-bg: #262c33;
    {_variables(DARK_PALETTE)}
  }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 var(--font); }}
main {{ max-width: 66rem; margin: 0 auto; padding: 4.5rem 2rem 6rem; }}
header {{ margin-bottom: 3.5rem; }}
.eyebrow {{ margin: 0; color: var(--muted); font-size: .85rem; letter-spacing: .02em; }}
h1 {{ margin: .2rem 0 .6rem; font-size: 2.3rem; font-weight: 650; line-height: 1.15; letter-spacing: -.02em;
  overflow-wrap: anywhere; }}
.lede {{ margin: 0; max-width: 52rem; font-size: 1.1rem; color: var(--muted); }}
section {{ margin: 0 0 4rem; }}
h2 {{ margin: 0 0 1.1rem; font-size: 1.35rem; font-weight: 650; letter-spacing: -.01em; }}
h3 {{ margin: 0 0 .8rem; font-size: 1.02rem; font-weight: 600; }}
.scroll {{ overflow-x: auto; }}
table {{ width: 100%; border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }}
th {{ padding: 0 .9rem .5rem 0; text-align: left; vertical-align: bottom; font-weight: 500; font-size: .82rem;
  color: var(--muted); border-bottom: 1px solid var(--muted); white-space: nowrap; }}
td {{ padding: .65rem .9rem .65rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }}
th:last-child, td:last-child {{ padding-right: 0; }}
.num {{ text-align: right; white-space: nowrap; }}
.note {{ display: block; font-size: .84em; color: var(--muted); overflow-wrap: anywhere; }}
td code {{ display: block; margin-top: .3rem; }}
code {{ font: .78rem/1.5 var(--mono); color: var(--muted); overflow-wrap: anywhere; user-select: all; }}
.badge {{ display: inline-block; padding: .05rem .6rem; border-radius: 1rem; font-size: .84rem; font-weight: 600;
  white-space: nowrap; color: var(--open); background: var(--open-bg); }}
.badge.holds {{ color: var(--good); background: var(--good-bg); }}
.badge.fails, .badge.failed, .badge.blocked {{ color: var(--bad); background: var(--bad-bg); }}
.badge.finished {{ padding: 0; background: none; font-weight: 400; }}
.claims td:nth-child(2) {{ min-width: 18rem; }}
.claims td:nth-child(3) {{ min-width: 8.8rem; }}
.claims td:nth-child(5) {{ min-width: 6.6rem; }}
.runs td:first-child {{ min-width: 22rem; }}
.merges td:first-child {{ min-width: 12rem; }}
figure {{ margin: 0 0 3.2rem; }}
figure svg {{ display: block; width: 100%; height: auto; }}
figure svg * {{ stroke-linejoin: round; stroke-linecap: butt; }}
.caption {{ margin: .7rem 0 0; max-width: 50rem; font-size: .88rem; color: var(--muted); }}
a {{ color: inherit; }}
details {{ margin-top: .5rem; }}
summary {{ cursor: pointer; font-size: .88rem; color: var(--muted); }}
summary:focus-visible, a:focus-visible {{ outline: 2px solid var(--c0); outline-offset: 2px; }}
details .scroll {{ margin-top: 1.4rem; }}
.commands code {{ display: block; padding: .3rem .7rem; background: var(--panel); }}
.commands code:first-of-type {{ margin-top: .5rem; padding-top: .6rem; border-radius: .4rem .4rem 0 0; }}
.commands code:last-of-type {{ padding-bottom: .6rem; border-radius: 0 0 .4rem .4rem; }}
@media (max-width: 46rem) {{ main {{ padding: 2.5rem 1.1rem 4rem; }} h1 {{ font-size: 1.8rem; }} }}
@media print {{ main {{ padding: 0; }} figure, tr {{ break-inside: avoid; }} }}
"""
