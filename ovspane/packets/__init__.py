"""Sets of packets: header fields, flowgroups, ternary matches, and the algebra and index over them. Pure."""
