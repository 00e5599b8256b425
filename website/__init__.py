"""The documentation site: pages of docs/ and pages made from the program itself, built by Zensical."""
