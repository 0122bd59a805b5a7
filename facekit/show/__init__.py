"""Figures and controls: what the course and the cards show. Knows no data set, no network and no lesson."""
