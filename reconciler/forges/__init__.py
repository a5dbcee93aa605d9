"""Forges behind one small protocol: GitHub, GitLab, and Gitea with Forgejo."""
