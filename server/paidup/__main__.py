"""The command `paidup`, also `python -m paidup`: says what to install where the server is missing."""

from __future__ import annotations


def main() -> None:
    """Run the command line, or exit with one line where only the client is installed."""
    try:
        from paidup.cli import main as run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("paidup"):
            raise
        raise SystemExit(
            f"paidup: {error.name} is not installed. The command needs the server: "
            "pip install 'paidup[server]', or 'paidup[demo]' for the demo."
        ) from None
    run()


if __name__ == "__main__":
    main()
