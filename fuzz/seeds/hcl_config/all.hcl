# c
// c
/* c */ a = "x\n${b "}" }" b "l" { c = [1, 0x1f, 1.5e3, true], d { } }
e = <<-END
  text
  END
f = 010 g { h = -1 }
