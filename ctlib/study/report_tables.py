"""The report's tables as people read them: published, measured and judged, each by itself."""

import pandas as pd

from ctlib import paper
from ctlib.study import comparisons


def published(table: str) -> pd.DataFrame:
    """What a table of the paper prints: top-1 accuracies in percent by data set, costs and protocol; a row a row."""
    called = {"gflops": "GFLOPs, one view", "gflops_total": "GFLOPs, all views", "params_m": "params, M"}
    called |= {"frames": "frames", "size": "size", "crops": "crops", "clips": "clips"}
    lines = paper.table(table)
    numbers = comparisons.published(table).rename(columns=lambda data: f"top-1 on {data}, %")
    return numbers.join(lines[[column for column in called if column in lines]].rename(columns=called))


def measured(means: pd.DataFrame, table: str) -> pd.DataFrame:
    """What was measured for a table, a row a row. Arguments: of `comparisons.averaged`, with lines of that table."""
    rows = means.loc[[table]].droplevel("table")
    return pd.DataFrame(
        {
            "top-1, %": rows.top1,
            "±": rows["std"],
            "seeds": rows.seeds,
            "GFLOPs, all views": rows.gflops,
            "params, M": rows.params / 1e6,
            "frames": rows.frames,
            "size": rows["size"],
            "crops x clips": rows.crops.astype(str) + " x " + rows.clips.astype(str),
        }
    )


def findings(found: pd.DataFrame) -> pd.DataFrame:
    """Judged pairs of `comparisons.pairs`, differences in points of top-1; what needs more seeds is left empty."""
    between = found.low.map("{:+.1f}".format) + " to " + found.high.map("{:+.1f}".format)
    return pd.DataFrame(
        {
            "published on": found.data,
            "higher": found.higher,
            "lower": found.lower,
            "published gap": found.gap.map("{:.1f}".format),
            "measured": found.difference.map("{:+.1f}".format).where(found.seeds > 0, ""),
            "95 % interval": between.where(found.seeds > 1, ""),
            "seeds": found.seeds,
            "p": found.p.map("{:.3f}".format).where(found.seeds > 1, ""),
            "p, corrected": found.p_holm.map("{:.3f}".format).where(found.seeds > 1, ""),
            "result": found.result + found.why.map(lambda why: f" ({why})" if why else ""),
        }
    )
