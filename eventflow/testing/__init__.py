"""What users test their own workflows with."""
