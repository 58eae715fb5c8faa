"""What all pages share: their application, their icon, and what their scripts begin with."""
