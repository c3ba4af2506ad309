"""Membership-benefits reports: SQL files served as JSON over HTTP."""
