"""The commands of the command line, by what they are about; ``mmpeft/__main__.py`` puts them together."""
