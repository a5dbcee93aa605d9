"""What leaves the repository: uploads and notifications, one module an outlet, and what delivers them."""
