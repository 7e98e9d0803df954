"""`python -m anybind.agent.cli`."""

from anybind.agent.cli.app import main

main()
