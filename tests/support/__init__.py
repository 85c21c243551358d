"""What the tests share: real parts started on loopback, and a customer to drive them with."""
