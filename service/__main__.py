"""`python -m service` is the same as the console script `autoship`."""

from service.cli import run

if __name__ == "__main__":
    run()
