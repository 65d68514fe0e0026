"""Tables and pages from results.json and the files beside it.

write_reports.py  report.md, report.tex and report.html
tables.py         the tables: scores, resources, runtime
text.py           a table as Markdown, as LaTeX and for a terminal
page.py           report.html
curves.py         paths and errors as charts
cited.py          the paper's own numbers
"""
