"""What pabtune uses of other libraries that these call private: one file for each library, to be read at an upgrade."""
