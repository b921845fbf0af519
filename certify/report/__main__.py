"""`python -m certify.report DIR [--into DIR]`: the reports of a finished campaign again, from its files alone."""

import argparse
from pathlib import Path

from certify.report.campaign import load_campaign
from certify.report.writer import write_campaign

__all__ = ["main"]


def main() -> None:
    """Entry point; prints where the page lies."""
    parser = argparse.ArgumentParser(prog="python -m certify.report", description=__doc__)
    parser.add_argument("directory", type=Path, help="the --out of `zg-certify run`")
    parser.add_argument("--into", type=Path, help="write there instead of beside the certificates")
    args = parser.parse_args()
    print(write_campaign(load_campaign(args.directory), args.into or args.directory))


if __name__ == "__main__":
    main()
